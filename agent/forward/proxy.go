package forward

import (
	"net"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/chancery-pki/chancery/agent/mesh"
)

// proxyHeader returns a PROXY protocol header of version 2, binary: the
// addresses of the session's two ends, and the peer's name where programs look
// for the common name of a client's certificate (PP2_TYPE_SSL, section 2.2.6).
func proxyHeader(s *mesh.Session) ([]byte, error) {
	h := proxyproto.HeaderProxyFromAddrs(2, address(s.RemoteAddr()), address(s.LocalAddr()))
	ssl, err := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL | tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN | tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS,
		TLV: []proxyproto.TLV{
			{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte("TLSv1.3")},
			{Type: proxyproto.PP2_SUBTYPE_SSL_CN, Value: []byte(s.Peer().Name)},
		},
	}.Marshal()
	if err != nil {
		return nil, err
	}
	if err := h.SetTLVs([]proxyproto.TLV{ssl}); err != nil {
		return nil, err
	}
	return h.Format()
}

// address makes an IPv4 address that a socket for both families reports look
// like one.
func address(a net.Addr) net.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		if ip := t.IP.To4(); ip != nil {
			return &net.TCPAddr{IP: ip, Port: t.Port}
		}
	}
	return a
}

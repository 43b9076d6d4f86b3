package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/issuer"
	"github.com/chancery-pki/chancery/merkle"
)

const (
	// maxX509 bounds the requests for X.509 CRLs at a time: third parties must
	// not keep nodes from enrolling.
	maxX509 = 16
	// x509Time is how long one of them waits for the token.
	x509Time = 20 * time.Second

	crlType = "application/pkix-crl" // RFC 2585 section 4.2
)

// What is told of a list beside its bytes, so that nobody has to parse a
// million entries to show it.
const (
	NumberHeader  = "Chancery-Crl-Number"
	RevokedHeader = "Chancery-Crl-Revoked"
)

// An x509Server serves X.509 CRLs, as DER (RFC 5280 section 4.2.1.13), and
// operators the issuer's certificate.
type x509Server struct {
	issuer *issuer.Issuer // nil if there is none
	now    func() time.Time
	logger *slog.Logger
}

// serve serves each list under the path that is in its distribution point.
func (s *x509Server) serve(mux *http.ServeMux) {
	slots := make(chan struct{}, maxX509)
	get := func(w http.ResponseWriter, r *http.Request) {
		part, err := parsePart(r)
		if err != nil {
			refuse(w, s.logger, err)
			return
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			s.list(w, r, part)
		default:
			refuse(w, s.logger, unavailable("busy", "too many ask for X.509 CRLs; try again"))
		}
	}
	mux.HandleFunc("GET /crl/x509/{ca}", get)
	mux.HandleFunc("GET /crl/x509/{ca}/{log}/{partition}", get)
}

// parsePart reads the one form that a path has.
func parsePart(r *http.Request) (p issuer.Part, err error) {
	ca, isPart := r.PathValue("ca"), r.PathValue("log") != ""
	if isPart {
		log, failed := strconv.ParseUint(r.PathValue("log"), 10, 16)
		p.Log = uint16(log)
		p.Partition, err = strconv.ParseUint(strings.TrimSuffix(r.PathValue("partition"), ".crl"), 10, 32)
		err = errors.Join(failed, err)
	} else {
		ca = strings.TrimSuffix(ca, ".crl")
	}
	var failed error
	p.CA, failed = merkle.ParseTrustAnchorID(ca)
	path := chancery.X509CRLPath(p.CA)
	if isPart {
		path = chancery.X509PartitionPath(p.CA, p.Log, p.Partition)
	}
	if errors.Join(err, failed) != nil || isPart && p.Log == 0 || r.URL.Path != path {
		return p, noList("there is no X.509 CRL under this path")
	}
	return p, nil
}

// list answers with a list. It may be kept until there must be a newer one, as
// its reader may.
func (s *x509Server) list(w http.ResponseWriter, r *http.Request, part issuer.Part) {
	if s.issuer == nil {
		refuse(w, s.logger, noList("this coordinator has no X.509 issuer"))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), x509Time)
	defer cancel()
	list, err := s.issuer.CRL(ctx, part)
	switch {
	case err == nil:
	case errors.Is(err, issuer.ErrNoList) && part.Log != 0:
		err = noList(fmt.Sprintf("there is no partition %d of log %d: each is of %d indexes", part.Partition, part.Log, chancery.X509PartitionSpan))
	case errors.Is(err, issuer.ErrNoList):
		err = noList("there is no log of the CA " + part.CA.String())
	case errors.Is(err, issuer.ErrLarge):
		err = &problem{chancery.Problem{Status: http.StatusConflict, Detail: err.Error(), Code: "too-large", Hint: "--partition N exports one of them"}}
	case errors.Is(err, context.DeadlineExceeded):
		err = unavailable("no-token", "the X.509 issuer's key did not sign in time; try again")
	}
	if err != nil {
		refuse(w, s.logger, err)
		return
	}
	head := list.Head
	sum := sha256.Sum256(list.DER)
	h := w.Header()
	h.Set("Content-Type", crlType)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", max(0, int(head.NextUpdate.Sub(s.now())/time.Second))))
	h.Set("Expires", head.NextUpdate.UTC().Format(http.TimeFormat))
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	h.Set(NumberHeader, strconv.FormatUint(head.Number, 10))
	h.Set(RevokedHeader, strconv.FormatUint(list.Revoked, 10))
	http.ServeContent(w, r, "", head.ThisUpdate, bytes.NewReader(list.DER))
}

func noList(detail string) error {
	return &problem{chancery.Problem{Status: http.StatusNotFound, Detail: detail, Code: "no-list"}}
}

// current serves operators the list of the current log: all of it, or the
// partition that is asked for.
func (s *x509Server) current(p *chancery.Pointer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		part := issuer.Part{CA: p.Current().ID}
		if text := r.URL.Query().Get("partition"); text != "" {
			number, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				refuse(w, s.logger, &problem{chancery.Problem{Status: http.StatusBadRequest, Detail: text + " is no number of a partition", Code: "invalid"}})
				return
			}
			part.Log, part.Partition = p.Current().Log(), number
		}
		s.list(w, r, part)
	}
}

// own serves operators the issuer's certificate.
func (s *x509Server) own(w http.ResponseWriter, r *http.Request) {
	if s.issuer == nil {
		refuse(w, s.logger, &problem{chancery.Problem{Status: http.StatusNotFound, Detail: "this coordinator has no X.509 issuer", Code: "no-issuer"}})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), x509Time)
	defer cancel()
	der, err := s.issuer.CA(ctx)
	if err != nil {
		refuse(w, s.logger, err)
		return
	}
	binary(w, der)
}

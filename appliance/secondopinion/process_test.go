package secondopinion_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/chancery-pki/chancery/appliance/secondopinion"
	"github.com/chancery-pki/chancery/simulator/papertpm"
	"github.com/chancery-pki/chancery/tpm/eventlog"
	"github.com/chancery-pki/chancery/tpm/eventlog/eventlogtest"
)

func TestMain(m *testing.M) {
	secondopinion.Process() // this program is the process, too
	os.Exit(m.Run())
}

// The process says what the library says.
func TestJudge(t *testing.T) {
	s := show(t, paper(t, papertpm.P256), nil, 0, 7)
	if err := secondopinion.Judge(s.ak, s.qualifying, s.quote, s.log); err != nil {
		t.Errorf("a good quote: %v", err)
	}
	err := secondopinion.Judge(s.ak, [32]byte{}, s.quote, s.log)
	if err == nil || !strings.HasPrefix(err.Error(), "go-tpm-tools: ") {
		t.Errorf("another nonce: %v", err)
	}
	if secondopinion.Judge(s.ak, s.qualifying, nil, nil) == nil {
		t.Error("no quote is agreed with")
	}
}

// A log by which the library asks for gigabytes kills the process, and is a
// refusal.
func TestJudgeOfALogThatKills(t *testing.T) {
	list := make([]byte, 28)
	copy(list, []byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}) // EFI_CERT_SHA256_GUID
	binary.LittleEndian.PutUint32(list[16:], 28+16)
	list = append(list, make([]byte, 16)...) // of signatures that are 0 bytes long
	guid := [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	variable := append(guid[:], binary.LittleEndian.AppendUint64(nil, 2)...)
	variable = binary.LittleEndian.AppendUint64(variable, uint64(len(list)))
	for _, c := range utf16.Encode([]rune("db")) {
		variable = binary.LittleEndian.AppendUint16(variable, c)
	}
	b := eventlogtest.NewBuilder()
	b.Add(7, eventlog.EFIVariableDriverConfig, append(variable, list...))
	log := b.Bytes()
	c := paper(t, papertpm.P256)
	measure(t, c, log)
	s := show(t, c, log, 7)
	err := secondopinion.Judge(s.ak, s.qualifying, s.quote, s.log)
	if err == nil {
		t.Fatal("it is agreed with")
	}
	t.Log(err)
}

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/ledger"
	"github.com/chancery-pki/chancery/appliance/store"
)

// What a handler's error becomes. Only the coordinator's own trouble is
// logged, and only that is kept from the other end.
func TestErrors(t *testing.T) {
	const secret = "CKR_DEVICE_ERROR in slot 3"
	refusal := &authority.Refusal{Status: 403, Code: "token-used", Detail: "join token is used up", Tip: "make another"}
	for _, test := range []struct {
		err    error
		status int
		code   string
		hint   string
	}{
		{refusal, 403, "token-used", "make another"},
		{fmt.Errorf("somewhere: %w", refusal), 403, "token-used", "make another"},
		{&problem{chancery.Problem{Title: "Bad Request", Status: 400, Detail: "no", Code: "bad-serial"}}, 400, "bad-serial", ""},
		{context.Canceled, 503, "canceled", ""},
		{fmt.Errorf("%s: %w", secret, context.DeadlineExceeded), 503, "no-token", ""},
		{ledger.ErrClosed, 503, "stopping", ""},
		{fmt.Errorf("%w: %s: %w", ledger.ErrClosed, secret, context.Canceled), 503, "stopping", ""},
		{errors.New(secret), 500, "internal", ""},
		{fmt.Errorf("%s: %w", secret, store.ErrTaken), 500, "internal", ""},
		{fmt.Errorf("%s: %w", secret, store.ErrNotFound), 500, "internal", ""},
	} {
		var log bytes.Buffer
		_, err := handle(slog.New(slog.NewTextHandler(&log, nil)), func(context.Context, *struct{}) (*struct{}, error) { return nil, test.err })(t.Context(), nil)
		p, ok := errors.AsType[*problem](err)
		if !ok || p.Status != test.status || p.GetStatus() != test.status || p.Code != test.code || p.Hint != test.hint || p.Title != http.StatusText(test.status) || p.Detail == "" {
			t.Errorf("%v became %+v", test.err, err)
			continue
		}
		if strings.Contains(p.Detail, secret) {
			t.Errorf("%v is told: %s", test.err, p.Detail)
		}
		if logged := strings.Contains(log.String(), secret); logged != (test.status == 500) {
			t.Errorf("%v: logged: %t", test.err, logged)
		}
	}
}

func TestNoError(t *testing.T) {
	out, err := handle(slog.New(slog.DiscardHandler), func(_ context.Context, in *int) (*int, error) { return in, nil })(t.Context(), new(7))
	if err != nil || *out != 7 {
		t.Errorf("%v, %v", out, err)
	}
}

// Strangers cannot make the limiter remember all of them.
func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(0.001)
	from := func(address string) bool { return l.allow(&http.Request{RemoteAddr: address}) }
	if !from("192.0.2.1:1") || from("192.0.2.1:2") {
		t.Error("an address has one request, whatever its port")
	}
	for i := range maxBuckets {
		from(fmt.Sprintf("[2001:db8::%x:%x]:1", i>>8, i&255))
		if len(l.buckets) > maxBuckets {
			t.Fatalf("%d addresses are remembered", len(l.buckets))
		}
	}
	if l := newLimiter(0); !l.allow(&http.Request{}) || !l.allow(&http.Request{}) {
		t.Error("no limit limits")
	}
}

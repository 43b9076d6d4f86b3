package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chancery-pki/chancery"
	"github.com/chancery-pki/chancery/appliance/api"
	"github.com/chancery-pki/chancery/appliance/authority"
	"github.com/chancery-pki/chancery/appliance/store"
)

// A list of any length is answered while it is read, and one that breaks off
// leaves what was taken revoked.
func TestRevocations(t *testing.T) {
	w := newWorld(t)
	w.enrol(w.chipNode("edge-1", false))
	q := api.RevokeQuery{Scope: authority.Nodes, Reason: "fire & flood", Code: chancery.ReasonKeyCompromise}
	list, out := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://chancery"+q.Path(), list)
	if err != nil {
		t.Fatal(err)
	}
	go io.WriteString(out, strings.Repeat("edge-1\n", 3000)) // more than one transaction, and no end
	resp, err := w.operator().client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := json.NewDecoder(resp.Body)
	var e api.RevokeEvent
	if err := answer.Decode(&e); err != nil || e.Progress == nil || e.Progress.Certificates != 1 || e.Progress.Selectors == 0 || e.Progress.Selectors >= 3000 {
		t.Fatalf("first answer: %+v, %v", e, err)
	}
	out.CloseWithError(errors.New("the operator's machine is gone"))
	for err == nil {
		err = answer.Decode(&e)
	}
	for w.Ledger.CRL().Revoked() == 0 { // nobody is told that what broke off is published
		time.Sleep(time.Millisecond)
	}
	w.View(func(tx *store.Tx) error {
		n, err := tx.NodeByName("edge-1")
		if err != nil || n.State != store.NodeRevoked || n.Reason != "fire & flood" || n.Code != chancery.ReasonKeyCompromise {
			t.Errorf("the node is %+v, %v", n, err)
		}
		return err
	})
}

// What is wrong from the start is a problem as everywhere; what turns up later
// is the last line, with what was done before it.
func TestRevocationsProblems(t *testing.T) {
	w := newWorld(t)
	w.enrol(w.chipNode("edge-1", false))
	for query, code := range map[string]string{
		"":                              "invalid",
		"scope=chips":                   "invalid",
		"scope=nodes&reason_code=theft": "invalid",
		"scope=nodes&dry_run=perhaps":   "invalid",
		"scope=nodes&ignore_unknown=7":  "invalid",
		"scope=nodes&reason=" + url.QueryEscape(strings.Repeat("x", 201)): "invalid",
		"scope=certificates": "bad-selector",
		"scope=nodes":        "not-found",
	} {
		r, err := w.operator().send("POST", "/v1/revocations?"+query, "text/plain", strings.NewReader("ghost\n"))
		if err != nil {
			t.Fatal(err)
		}
		r.wantProblem(t, query, map[string]int{"invalid": 400, "bad-selector": 400, "not-found": 404}[code], code)
	}
	list := strings.Repeat("edge-1\n", 3000) + "ghost\n"
	r, err := w.operator().send("POST", "/v1/revocations?scope=nodes", "text/plain", strings.NewReader(list))
	if err != nil || r.status != 200 {
		t.Fatalf("%+v, %v", r, err)
	}
	lines := strings.Split(strings.TrimSpace(string(r.body)), "\n")
	var last api.RevokeEvent
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Problem == nil || last.Result == nil {
		t.Fatalf("the last line is %s", lines[len(lines)-1])
	}
	if last.Problem.Code != "not-found" || last.Result.Nodes != 1 || last.Result.Selectors >= 3000 || fmt.Sprint(last.Result.NotFound) != "[{3001 ghost}]" {
		t.Errorf("%+v after %+v", last.Problem, last.Result)
	}
}

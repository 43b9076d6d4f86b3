package secondopinion

import "github.com/chancery-pki/chancery"

// JudgeHere judges in this process: for tests that ask thousands of times.
func JudgeHere(ak []byte, qualifying [32]byte, q *chancery.Quote, eventLog []byte) error {
	return judge(&question{ak, qualifying, q, eventLog})
}

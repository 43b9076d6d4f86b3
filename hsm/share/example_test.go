package share_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/chancery-pki/chancery/hsm/share"
)

// Five custodians share the PIN of a token; any three of them bring it back.
func Example() {
	pin := []byte("correct horse")
	shares, err := share.Split(pin, "user PIN of token chancery", 3, 5)
	if err != nil {
		log.Fatal(err)
	}
	clear(pin)

	var texts [][]byte // a file for each custodian
	for _, s := range shares {
		texts = append(texts, s.Reveal())
		s.Wipe()
	}

	var present []share.Share // whoever is there on the day
	for _, i := range []int{4, 0, 2} {
		s, err := share.Parse(texts[i])
		if err != nil {
			log.Fatal(err)
		}
		present = append(present, s)
	}
	secret, err := share.Combine(present)
	if err != nil {
		log.Fatal(err)
	}
	defer clear(secret)
	fmt.Println(present[0].Info().Purpose)
	fmt.Printf("%s\n", secret)
	// Output:
	// user PIN of token chancery
	// correct horse
}

// Errors have types that tell what is wrong, and hints that tell what to do.
func ExampleCombine_hint() {
	shares, err := share.Split([]byte("correct horse"), "user PIN of token chancery", 3, 5)
	if err != nil {
		log.Fatal(err)
	}
	_, err = share.Combine(shares[:2])
	if few, ok := errors.AsType[*share.TooFewError](err); ok {
		fmt.Printf("%d of %d\n", few.Have, few.Share.K)
		fmt.Println("hint:", few.Hint())
	}
	// Output:
	// 2 of 3
	// hint: ask 1 more of the set's 5 custodians
}

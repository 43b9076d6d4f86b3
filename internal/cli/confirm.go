package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

// Confirm asks whether to do what, as in "This will WHAT. Continue?", and reads
// the answer from in, a terminal. It is no unless it is yes.
func Confirm(ctx context.Context, in io.Reader, what string) error {
	fmt.Fprintf(os.Stderr, "This will %s. Continue? [y/N] ", what)
	answered := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(in).ReadString('\n')
		answered <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-answered:
		if answer == "y" || answer == "yes" {
			return nil
		}
	case <-ctx.Done(): // an interrupt is a no
	}
	return Failure("--yes does not ask", "nothing was changed")
}

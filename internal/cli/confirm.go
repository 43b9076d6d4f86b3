package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
)

// Confirm asks on the terminal whether to do what: "This will WHAT. Continue?".
// The answer is no unless it is yes.
func Confirm(ctx context.Context, what string) error {
	fmt.Fprintf(os.Stderr, "This will %s. Continue? [y/N] ", what)
	answered := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
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

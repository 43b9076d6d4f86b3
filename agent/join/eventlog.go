package join

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/chancery-pki/chancery/tpm/eventlog"
)

// DefaultEventLog is where Linux shows the boot's event log.
const DefaultEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// An EventLogError is an event log that the coordinator asks for and that
// cannot be read.
type EventLogError struct {
	File string
	Err  error
}

func (e *EventLogError) Error() string {
	return fmt.Sprintf("the coordinator asks for the boot's event log: %v", e.Err)
}

// Unwrap returns why it cannot be read.
func (e *EventLogError) Unwrap() error { return e.Err }

// Hint tells what to do.
func (e *EventLogError) Hint() string {
	return "run the agent as root and mount securityfs, or name the file with event_log in agent.toml; without a log this machine cannot meet the coordinator's policy"
}

// ReadEventLog reads the log in the file, or where Linux has it. The kernel's file has no size, so it is read
// until its end.
func ReadEventLog(file string) ([]byte, error) {
	if file == "" {
		file = DefaultEventLog
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, &EventLogError{file, err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, eventlog.MaxSize+1))
	if err == nil && len(b) > eventlog.MaxSize {
		err = fmt.Errorf("%s: longer than %d bytes", file, eventlog.MaxSize)
	}
	if err != nil {
		return nil, &EventLogError{file, err}
	}
	return b, nil
}

// Union returns the PCRs of both, rising.
func Union(a, b []int) []int {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

package swtpm

import "os/exec"

// A MissingError says that a program of the swtpm suite is not installed.
type MissingError struct {
	Program string
	Err     error
}

func (e *MissingError) Error() string { return "swtpm: " + e.Program + " not found" }
func (e *MissingError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *MissingError) Hint() string { return "apt-get install swtpm swtpm-tools (make deps)" }

// Locate checks that the programs of the swtpm suite are installed. Its error
// is a [*MissingError].
func Locate() error {
	for _, name := range []string{"swtpm", "swtpm_setup", "swtpm_localca"} {
		if _, err := find(name); err != nil {
			return err
		}
	}
	return nil
}

func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &MissingError{Program: name, Err: err}
	}
	return path, nil
}

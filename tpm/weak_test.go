package tpm

import "testing"

// The versions that the vendors and the authors name, on both sides of each
// border.
func TestWeaknesses(t *testing.T) {
	for _, test := range []struct {
		manufacturer string
		firmware     version
		want         []string
	}{
		{"IFX", v(5, 61, 2785, 0), []string{"ROCA"}},
		{"IFX", v(5, 62, 3126, 0), nil},
		{"IFX", v(7, 40, 2098, 0), []string{"ROCA"}},
		{"IFX", v(7, 61, 2785, 0), []string{"ROCA"}},
		{"IFX", v(7, 62, 3126, 0), nil},
		{"IFX", v(7, 85, 4555, 0), nil},
		{"IFX", v(15, 22, 16832, 0), nil},
		{"IFX", v(4, 32, 0, 0), nil}, // TPM 1.2

		{"STM", v(71, 0, 0, 0), []string{"TPM-FAIL"}},
		{"STM", v(71, 12, 0, 0), []string{"TPM-FAIL"}},
		{"STM", v(71, 16, 0, 0), nil},
		{"STM", v(73, 4, 17568, 4452), []string{"TPM-FAIL"}},
		{"STM", v(73, 5, 0, 0), []string{"TPM-FAIL"}},
		{"STM", v(73, 8, 17568, 5511), []string{"TPM-FAIL"}},
		{"STM", v(73, 9, 0, 0), []string{"TPM-FAIL"}},
		{"STM", v(73, 20, 17568, 6684), nil},
		{"STM", v(73, 64, 17568, 6659), nil},
		{"STM", v(74, 4, 0, 0), []string{"TPM-FAIL"}},
		{"STM", v(74, 8, 17568, 5511), []string{"TPM-FAIL"}},
		{"STM", v(74, 16, 0, 0), []string{"TPM-FAIL"}},
		{"STM", v(74, 20, 0, 0), nil},
		{"STM", v(74, 64, 17568, 6652), nil},

		{"INTC", v(11, 5, 0, 1058), []string{"TPM-FAIL", "nine signatures"}},
		{"INTC", v(11, 6, 10, 1196), []string{"TPM-FAIL", "nine signatures"}},
		{"INTC", v(11, 8, 50, 3399), []string{"TPM-FAIL"}},
		{"INTC", v(11, 8, 70, 3626), nil},
		{"INTC", v(11, 22, 65, 0), []string{"TPM-FAIL"}},
		{"INTC", v(11, 22, 70, 0), nil},
		{"INTC", v(12, 0, 40, 1434), []string{"TPM-FAIL"}},
		{"INTC", v(12, 0, 45, 1509), nil},
		{"INTC", v(14, 0, 5, 0), []string{"TPM-FAIL"}},
		{"INTC", v(14, 0, 10, 0), nil},
		{"INTC", v(3, 1, 60, 0), []string{"TPM-FAIL"}},
		{"INTC", v(3, 1, 70, 0), nil},
		{"INTC", v(4, 0, 15, 0), []string{"TPM-FAIL"}},
		{"INTC", v(303, 12, 0, 0), []string{"nine signatures"}},
		{"INTC", v(402, 1, 0, 0), nil},
		{"INTC", v(600, 7, 0, 0), nil},

		{"NTC", v(7, 2, 1, 0), nil},
		{"AMD", v(5, 61, 0, 0), nil},
		{"IBM", v(8217, 4131, 22, 13878), nil},
		{"", 0, nil},
	} {
		got := Weaknesses(test.manufacturer, uint64(test.firmware))
		if len(got) != len(test.want) {
			t.Errorf("%s %x: %v, want %v", test.manufacturer, test.firmware, got, test.want)
			continue
		}
		for i, w := range got {
			if w.Name != test.want[i] || w.ID == "" || w.What == "" || w.Source == "" {
				t.Errorf("%s %x: %v, want %v", test.manufacturer, test.firmware, got, test.want)
			}
		}
	}
}

// Ranges are the right way round.
func TestWeakFirmwareRanges(t *testing.T) {
	for _, w := range weakFirmware {
		if w.from > w.to {
			t.Errorf("%s: %x to %x", w.manufacturer, w.from, w.to)
		}
	}
}

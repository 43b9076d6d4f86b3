package device

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A Kind is what a fault does to a call.
type Kind int

// Kinds of faults. The order is that of enum kind in device.c.
const (
	// Return answers with Fault.Code without calling the module.
	Return Kind = iota

	// Hang does not return, until [Device.Clear]; then the call goes on.
	Hang

	// Segfault writes to address 0, within the process that calls.
	Segfault

	// Abort calls abort(3) there.
	Abort

	// WrongSignature changes a bit of the signature. It is for C_Sign and
	// C_SignFinal.
	WrongSignature

	// Slow waits for Fault.Delay before it calls the module.
	Slow
)

func (k Kind) String() string {
	if k < 0 || int(k) >= len(kinds) {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return kinds[k]
}

var kinds = []string{"return", "hang", "segfault", "abort", "wrong signature", "slow"}

// A Fault is what is wrong with a function of the module. It counts the calls
// of all processes from the moment it is injected.
//
// A function may have several faults, each with its own count. A call that
// several of them hit is late first, then hangs, then crashes, then returns the
// code of the one injected first; so a Slow and a Return are a device that fails
// late.
type Fault struct {
	Function string        // such as "C_Sign"
	Skip     int           // calls that it lets pass first
	Times    int           // calls that it then hits; 0: all, until it is cleared
	Kind     Kind          // what it does
	Code     uint          // of Return: the CK_RV, not CKR_OK
	Delay    time.Duration // of Slow
}

func (f Fault) check() error {
	_, known := number(f.Function)
	switch {
	case !known:
		return fmt.Errorf("device: PKCS#11 2.40 has no function %q", f.Function)
	case f.Kind < 0 || int(f.Kind) >= len(kinds):
		return fmt.Errorf("device: no fault is of kind %d", int(f.Kind))
	case f.Skip < 0 || f.Times < 0 || f.Skip > math.MaxInt32 || f.Times > math.MaxInt32:
		return fmt.Errorf("device: skip %d and times %d must be 0 to %d", f.Skip, f.Times, math.MaxInt32)
	case (f.Kind == Return) != (f.Code != 0):
		return fmt.Errorf("device: fault %q with code 0x%x: a code, not 0, belongs to %q and to no other", f.Kind, f.Code, Return)
	case (f.Kind == Slow) != (f.Delay > 0):
		return fmt.Errorf("device: fault %q with delay %v: a delay, above 0, belongs to %q and to no other", f.Kind, f.Delay, Slow)
	case f.Kind == WrongSignature && f.Function != "C_Sign" && f.Function != "C_SignFinal":
		return fmt.Errorf("device: %s makes no signature that could be wrong", f.Function)
	}
	return nil
}

// number returns the place of a function in the list.
func number(function string) (int, bool) {
	i := slices.Index(functions[:], function)
	return i, i >= 0
}

// functions are those of PKCS#11 2.40, in the order of CK_FUNCTION_LIST and of
// device.c. Their place is their number in the shared state.
var functions = [...]string{
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList",
	"C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismList",
	"C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN",
	"C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_GetSessionInfo",
	"C_GetOperationState", "C_SetOperationState", "C_Login", "C_Logout",
	"C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetObjectSize",
	"C_GetAttributeValue", "C_SetAttributeValue",
	"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal",
	"C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal",
	"C_DecryptInit", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal",
	"C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey", "C_DigestFinal",
	"C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal",
	"C_SignRecoverInit", "C_SignRecover",
	"C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal",
	"C_VerifyRecoverInit", "C_VerifyRecover",
	"C_DigestEncryptUpdate", "C_DecryptDigestUpdate",
	"C_SignEncryptUpdate", "C_DecryptVerifyUpdate",
	"C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey",
	"C_SeedRandom", "C_GenerateRandom",
	"C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
}

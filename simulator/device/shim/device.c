/* A PKCS#11 module that stands before another one and gives it the speed, the
 * limits and the faults of a device. Package device compiles it and documents
 * what it does; this file is how.
 *
 * What the processes share is struct state, in a file that each of them maps.
 * There is no lock in it: a process may be killed between any two instructions,
 * and the others go on. Every field is a word that is changed by an atomic
 * operation, and the order of changes is such that what a killed process leaves
 * behind is given back in time, as a device gives it back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef unsigned long CK_RV;

#define CKR_OK 0x00UL
#define CKR_GENERAL_ERROR 0x05UL
#define CKR_SESSION_COUNT 0xB1UL
#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define CKR_BUFFER_TOO_SMALL 0x150UL

_Static_assert(sizeof(CK_ULONG) == 8, "slot numbers and codes are words of the state");
_Static_assert(ATOMIC_LONG_LOCK_FREE == 2, "a word must not need a lock that a killed process can keep");

/* The functions of PKCS#11 2.40, in the order of CK_FUNCTION_LIST. SESSION
 * functions begin with a session and SLOT functions with a slot; for these the
 * compiler writes the wrapper. OWN functions have one below. Pointers that are
 * only handed through are void *. */
#define FUNCTIONS(OWN, SLOT, SESSION) \
	OWN(C_Initialize, (void *args), (args)) \
	OWN(C_Finalize, (void *reserved), (reserved)) \
	OWN(C_GetInfo, (void *info), (info)) \
	OWN(C_GetFunctionList, (struct functions **out), (out)) \
	OWN(C_GetSlotList, (unsigned char present, CK_ULONG *slots, CK_ULONG *n), (present, slots, n)) \
	SLOT(C_GetSlotInfo, (CK_ULONG slot, void *info), (slot, info)) \
	OWN(C_GetTokenInfo, (CK_ULONG slot, struct token_info *info), (slot, info)) \
	SLOT(C_GetMechanismList, (CK_ULONG slot, void *types, void *n), (slot, types, n)) \
	SLOT(C_GetMechanismInfo, (CK_ULONG slot, CK_ULONG type, void *info), (slot, type, info)) \
	SLOT(C_InitToken, (CK_ULONG slot, void *pin, CK_ULONG n, void *label), (slot, pin, n, label)) \
	SESSION(C_InitPIN, (CK_ULONG session, void *pin, CK_ULONG n), (session, pin, n)) \
	SESSION(C_SetPIN, (CK_ULONG session, void *old, CK_ULONG m, void *new, CK_ULONG n), (session, old, m, new, n)) \
	OWN(C_OpenSession, (CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session), (slot, flags, application, notify, session)) \
	OWN(C_CloseSession, (CK_ULONG session), (session)) \
	OWN(C_CloseAllSessions, (CK_ULONG slot), (slot)) \
	OWN(C_GetSessionInfo, (CK_ULONG session, struct session_info *info), (session, info)) \
	SESSION(C_GetOperationState, (CK_ULONG session, void *state, void *n), (session, state, n)) \
	SESSION(C_SetOperationState, (CK_ULONG session, void *state, CK_ULONG n, CK_ULONG cipher, CK_ULONG auth), (session, state, n, cipher, auth)) \
	SESSION(C_Login, (CK_ULONG session, CK_ULONG user, void *pin, CK_ULONG n), (session, user, pin, n)) \
	SESSION(C_Logout, (CK_ULONG session), (session)) \
	SESSION(C_CreateObject, (CK_ULONG session, void *template, CK_ULONG n, void *object), (session, template, n, object)) \
	SESSION(C_CopyObject, (CK_ULONG session, CK_ULONG object, void *template, CK_ULONG n, void *copy), (session, object, template, n, copy)) \
	SESSION(C_DestroyObject, (CK_ULONG session, CK_ULONG object), (session, object)) \
	SESSION(C_GetObjectSize, (CK_ULONG session, CK_ULONG object, void *size), (session, object, size)) \
	SESSION(C_GetAttributeValue, (CK_ULONG session, CK_ULONG object, void *template, CK_ULONG n), (session, object, template, n)) \
	SESSION(C_SetAttributeValue, (CK_ULONG session, CK_ULONG object, void *template, CK_ULONG n), (session, object, template, n)) \
	SESSION(C_FindObjectsInit, (CK_ULONG session, void *template, CK_ULONG n), (session, template, n)) \
	SESSION(C_FindObjects, (CK_ULONG session, void *objects, CK_ULONG max, void *n), (session, objects, max, n)) \
	SESSION(C_FindObjectsFinal, (CK_ULONG session), (session)) \
	SESSION(C_EncryptInit, (CK_ULONG session, void *mechanism, CK_ULONG key), (session, mechanism, key)) \
	SESSION(C_Encrypt, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_EncryptUpdate, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_EncryptFinal, (CK_ULONG session, void *out, void *m), (session, out, m)) \
	SESSION(C_DecryptInit, (CK_ULONG session, void *mechanism, CK_ULONG key), (session, mechanism, key)) \
	SESSION(C_Decrypt, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_DecryptUpdate, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_DecryptFinal, (CK_ULONG session, void *out, void *m), (session, out, m)) \
	SESSION(C_DigestInit, (CK_ULONG session, void *mechanism), (session, mechanism)) \
	SESSION(C_Digest, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_DigestUpdate, (CK_ULONG session, void *in, CK_ULONG n), (session, in, n)) \
	SESSION(C_DigestKey, (CK_ULONG session, CK_ULONG key), (session, key)) \
	SESSION(C_DigestFinal, (CK_ULONG session, void *out, void *m), (session, out, m)) \
	SESSION(C_SignInit, (CK_ULONG session, void *mechanism, CK_ULONG key), (session, mechanism, key)) \
	OWN(C_Sign, (CK_ULONG session, void *in, CK_ULONG n, unsigned char *out, CK_ULONG *m), (session, in, n, out, m)) \
	SESSION(C_SignUpdate, (CK_ULONG session, void *in, CK_ULONG n), (session, in, n)) \
	OWN(C_SignFinal, (CK_ULONG session, unsigned char *out, CK_ULONG *m), (session, out, m)) \
	SESSION(C_SignRecoverInit, (CK_ULONG session, void *mechanism, CK_ULONG key), (session, mechanism, key)) \
	SESSION(C_SignRecover, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_VerifyInit, (CK_ULONG session, void *mechanism, CK_ULONG key), (session, mechanism, key)) \
	SESSION(C_Verify, (CK_ULONG session, void *in, CK_ULONG n, void *sig, CK_ULONG m), (session, in, n, sig, m)) \
	SESSION(C_VerifyUpdate, (CK_ULONG session, void *in, CK_ULONG n), (session, in, n)) \
	SESSION(C_VerifyFinal, (CK_ULONG session, void *sig, CK_ULONG m), (session, sig, m)) \
	SESSION(C_VerifyRecoverInit, (CK_ULONG session, void *mechanism, CK_ULONG key), (session, mechanism, key)) \
	SESSION(C_VerifyRecover, (CK_ULONG session, void *sig, CK_ULONG m, void *out, void *n), (session, sig, m, out, n)) \
	SESSION(C_DigestEncryptUpdate, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_DecryptDigestUpdate, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_SignEncryptUpdate, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_DecryptVerifyUpdate, (CK_ULONG session, void *in, CK_ULONG n, void *out, void *m), (session, in, n, out, m)) \
	SESSION(C_GenerateKey, (CK_ULONG session, void *mechanism, void *template, CK_ULONG n, void *key), (session, mechanism, template, n, key)) \
	SESSION(C_GenerateKeyPair, (CK_ULONG session, void *mechanism, void *public, CK_ULONG m, void *private, CK_ULONG n, void *public_key, void *private_key), (session, mechanism, public, m, private, n, public_key, private_key)) \
	SESSION(C_WrapKey, (CK_ULONG session, void *mechanism, CK_ULONG with, CK_ULONG key, void *out, void *m), (session, mechanism, with, key, out, m)) \
	SESSION(C_UnwrapKey, (CK_ULONG session, void *mechanism, CK_ULONG with, void *in, CK_ULONG m, void *template, CK_ULONG n, void *key), (session, mechanism, with, in, m, template, n, key)) \
	SESSION(C_DeriveKey, (CK_ULONG session, void *mechanism, CK_ULONG base, void *template, CK_ULONG n, void *key), (session, mechanism, base, template, n, key)) \
	SESSION(C_SeedRandom, (CK_ULONG session, void *seed, CK_ULONG n), (session, seed, n)) \
	SESSION(C_GenerateRandom, (CK_ULONG session, void *out, CK_ULONG n), (session, out, n)) \
	SESSION(C_GetFunctionStatus, (CK_ULONG session), (session)) \
	SESSION(C_CancelFunction, (CK_ULONG session), (session)) \
	OWN(C_WaitForSlotEvent, (CK_ULONG flags, CK_ULONG *slot, void *reserved), (flags, slot, reserved))

struct token_info { /* CK_TOKEN_INFO, as far as it is changed */
	unsigned char label[32], manufacturer[32], model[16], serial[16];
	CK_ULONG flags;
	CK_ULONG max_sessions, sessions;
	CK_ULONG max_rw_sessions, rw_sessions;
};

struct session_info { /* CK_SESSION_INFO, likewise */
	CK_ULONG slot;
};

struct functions { /* CK_FUNCTION_LIST */
	struct {
		unsigned char major, minor;
	} version;
#define FIELD(name, params, args) CK_RV(*name) params;
	FUNCTIONS(FIELD, FIELD, FIELD)
};

enum function {
#define NUMBER(name, params, args) F_##name,
	FUNCTIONS(NUMBER, NUMBER, NUMBER) FUNCTION_COUNT
};
_Static_assert(FUNCTION_COUNT == 68, "PKCS#11 2.40 has 68 functions");

/* ---- The shared state. state.go has the same layout and the same numbers. ---- */

#define MAGIC 0x4543495645444b43UL /* "CKDEVICE", on a machine that is little endian */
#define VERSION 1

#define MAX_UNITS 64
#define MAX_SESSIONS 1024
#define MAX_FAULTS 64

typedef _Atomic uint64_t word;

enum kind { RETURN, HANG, SEGFAULT, ABORT, WRONG_SIGNATURE, SLOW };

/* A fault is in force while its ticket is not 0. The ticket is an identity that
 * is never used twice, above a count of the calls seen, in 32 bits each. */
struct fault {
	word ticket;
	word function, kind, skip, times, code, delay;
};

struct place { /* of a session in the device */
	word owner; /* 0: free. Else process above a serial number: never used twice */
	word used;  /* the monotonic time of its last use */
	word busy;  /* the owner's serial number above the count of its calls that are in it */
};

struct state {
	word magic, version, size;

	/* The model. It does not change. Times are in nanoseconds. */
	word latency, units, sessions, idle;
	word jitter; /* in millionths */

	/* What a test turns. */
	word slot_offset; /* added to the module's slot numbers, modulo 2^64 */
	word flags_set, flags_cleared;

	/* The device. */
	word random;             /* state of the pseudo-random numbers */
	word opened;             /* counts sessions, for their owner's serial number */
	word free_at[MAX_UNITS]; /* the monotonic time at which each unit is idle */
	struct place places[MAX_SESSIONS];

	word calls[FUNCTION_COUNT];
	struct fault faults[MAX_FAULTS];
};

/* ---- What this process has. ---- */

/* mu guards initialised, sessions, and attaching. It is never held while a call
 * waits, and while calling the module only to close a session that has ended. */
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static int initialised;

/* sessions are those of this process, each under the number of its place in the
 * device. The session has ended if the place has another owner. */
static struct session {
	CK_ULONG handle; /* 0: none */
	CK_ULONG slot;   /* as the module numbers it */
	uint64_t owner;
} sessions[MAX_SESSIONS];

/* Set by attach, before any call can be in the module. */
static struct state *shared;
static struct functions *real;
static void *library;

static struct functions list; /* what the application sees */

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t end)
{
	struct timespec t = {(time_t)(end / 1000000000), (long)(end % 1000000000)};
	/* Programs in Go get signals all the time. */
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* attach maps the state and loads the module that the environment names, unless
 * that is done. It returns NULL or the problem. mu is held. */
static const char *attach_locked(void)
{
	static char *module;         /* what library was loaded from */
	static struct stat attached; /* what shared is mapped from */

	if (initialised)
		return NULL; /* calls may be in flight: not the time to change anything */
	const char *wanted = getenv("CHANCERY_DEVICE_MODULE");
	const char *path = getenv("CHANCERY_DEVICE_STATE");
	if (wanted == NULL || path == NULL)
		return "CHANCERY_DEVICE_MODULE and CHANCERY_DEVICE_STATE are not both set";

	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "the file that CHANCERY_DEVICE_STATE names cannot be opened";
	struct stat info;
	if (fstat(fd, &info) != 0 || info.st_size != (off_t)sizeof(struct state)) {
		close(fd);
		return "the file that CHANCERY_DEVICE_STATE names is not a state of this version";
	}
	if (shared == NULL || info.st_dev != attached.st_dev || info.st_ino != attached.st_ino) {
		struct state *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (s == MAP_FAILED)
			return "the file that CHANCERY_DEVICE_STATE names cannot be mapped";
		if (s->magic != MAGIC || s->version != VERSION || s->size != sizeof *s ||
		    s->units > MAX_UNITS || s->sessions > MAX_SESSIONS) {
			munmap(s, sizeof *s);
			return "the file that CHANCERY_DEVICE_STATE names is not a state of this version";
		}
		shared = s; /* the one before stays mapped: a call may hang in it */
		attached = info;
		memset(sessions, 0, sizeof sessions);
	} else {
		close(fd);
	}

	if (real != NULL && strcmp(module, wanted) == 0)
		return NULL;
	void *lib = dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL)
		return "the module that CHANCERY_DEVICE_MODULE names cannot be loaded";
	CK_RV (*get)(struct functions **);
	*(void **)&get = dlsym(lib, "C_GetFunctionList");
	struct functions *functions = NULL;
	if (get == NULL || get(&functions) != CKR_OK || functions == NULL) {
		dlclose(lib);
		return "the library that CHANCERY_DEVICE_MODULE names is not a PKCS#11 module";
	}
	if (library != NULL)
		dlclose(library);
	free(module);
	module = strdup(wanted);
	library = lib;
	real = functions;
	list.version = real->version;
	return NULL;
}

static const char *attach(void)
{
	pthread_mutex_lock(&mu);
	const char *problem = attach_locked();
	if (problem != NULL)
		real = NULL; /* all functions fail, rather than use what was before */
	pthread_mutex_unlock(&mu);
	return problem;
}

/* An application that unloads this library expects the module to start afresh.
 * The state stays mapped: when a process ends, which comes here too, a thread
 * may still be asleep in a call. */
__attribute__((destructor)) static void detach(void)
{
	if (library != NULL)
		dlclose(library);
}

/* ---- Faults ---- */

/* hits counts a call for the fault, if it is about the function, and reports
 * whether the fault hits it. Then what holds a consistent copy: that the ticket
 * could be exchanged proves that nobody changed the fault while it was read. */
static int hits(struct fault *f, enum function function, enum kind *kind, uint64_t *id, uint64_t *what)
{
	uint64_t ticket = f->ticket;
	for (;;) {
		if (ticket == 0 || f->function != function)
			return 0;
		uint64_t seen = ticket & UINT32_MAX, skip = f->skip, times = f->times;
		*kind = (enum kind)f->kind;
		*id = ticket >> 32;
		*what = *kind == SLOW ? f->delay : f->code;
		/* Counting ends where it no longer makes a difference. */
		uint64_t next = seen < skip + times ? ticket + 1 : ticket;
		if (atomic_compare_exchange_strong(&f->ticket, &ticket, next))
			return seen >= skip && (times == 0 || seen < skip + times);
	}
}

/* meet counts a call, and has it meet the faults: it may be late, never come
 * back, end the process, or return the code that the call is to fail with. */
static CK_RV meet(enum function function, int *wrong)
{
	static int *volatile nowhere;

	if (real == NULL)
		return CKR_GENERAL_ERROR;
	atomic_fetch_add(&shared->calls[function], 1);
	int segfault = 0, aborts = 0;
	uint64_t delay = 0, hang_id = 0, code_id = 0;
	struct fault *hang = NULL;
	CK_RV code = CKR_OK;
	for (struct fault *f = shared->faults; f < shared->faults + MAX_FAULTS; f++) {
		enum kind kind;
		uint64_t id, what;
		if (!hits(f, function, &kind, &id, &what))
			continue;
		switch (kind) {
		case RETURN:
			if (code == CKR_OK || id < code_id) {
				code = what;
				code_id = id;
			}
			break;
		case HANG:
			hang = f;
			hang_id = id;
			break;
		case SEGFAULT:
			segfault = 1;
			break;
		case ABORT:
			aborts = 1;
			break;
		case WRONG_SIGNATURE:
			*wrong = 1;
			break;
		case SLOW:
			delay += what;
			break;
		}
	}
	if (delay > 0)
		sleep_until(now() + delay);
	while (hang != NULL && hang->ticket >> 32 == hang_id)
		sleep_until(now() + 10000000);
	if (segfault)
		*nowhere = 1;
	if (aborts)
		abort();
	return code;
}

/* ---- Sessions ---- */

static int limited(void) { return shared->sessions != 0; }

static struct place *place_of(struct session *s) { return &shared->places[s - sessions]; }

static int ended(uint64_t owner)
{
	return kill((pid_t)(owner >> 32), 0) != 0 && errno == ESRCH;
}

/* lapsed reports whether the device takes the place back from its owner: nobody
 * has used it for too long, and no call is in it. Calls of a process that has
 * ended do not count; it may have been killed in one. A device that knows no
 * such time takes it from processes that have ended, as a driver does. */
static int lapsed(struct place *p, uint64_t owner)
{
	if (shared->idle == 0)
		return ended(owner);
	uint64_t busy = p->busy;
	int in_call = busy >> 32 == (uint32_t)owner && (uint32_t)busy > 0;
	return (int64_t)(now() - p->used) > (int64_t)shared->idle && (!in_call || ended(owner));
}

/* use adds to the count of calls in the place, unless the place has got another
 * owner: it reports which. */
static int use(struct place *p, uint64_t owner, int change)
{
	uint64_t busy = p->busy;
	do {
		if (busy >> 32 != (uint32_t)owner)
			return 0;
	} while (!atomic_compare_exchange_weak(&p->busy, &busy, busy + (uint64_t)change));
	p->used = now();
	return 1;
}

/* forget gives the session's place back, unless it has another owner already or
 * belongs to the process that this one was forked from. mu is held. */
static void forget(struct session *s)
{
	uint64_t owner = s->owner;
	if ((pid_t)(owner >> 32) == getpid())
		atomic_compare_exchange_strong(&place_of(s)->owner, &owner, 0);
	memset(s, 0, sizeof *s);
}

/* claim takes a place for a session that is about to be opened. It returns NULL
 * if the device has none. */
static struct session *claim(CK_ULONG slot)
{
	uint64_t mine = (uint64_t)getpid() << 32 | (uint32_t)(atomic_fetch_add(&shared->opened, 1) + 1);
	struct session *found = NULL;
	pthread_mutex_lock(&mu);
	for (struct session *s = sessions; s < sessions + shared->sessions && found == NULL; s++) {
		struct place *p = place_of(s);
		uint64_t owner = p->owner;
		if (owner != 0 && !lapsed(p, owner))
			continue;
		/* Before the owner, or the place would lapse as soon as it is
		 * taken. If another process is faster, this touches its session
		 * once, which is no harm. */
		p->used = now();
		if (!atomic_compare_exchange_strong(&p->owner, &owner, mine))
			continue;
		p->busy = mine << 32 | 1; /* with its opening */
		if (s->handle != 0) /* a session of ours that has lapsed */
			real->C_CloseSession(s->handle);
		*s = (struct session){.slot = slot, .owner = mine};
		found = s;
	}
	pthread_mutex_unlock(&mu);
	return found;
}

static struct session *find(CK_ULONG handle)
{
	for (struct session *s = sessions; s < sessions + shared->sessions; s++)
		if (s->handle == handle && handle != 0)
			return s;
	return NULL;
}

/* enter is the begin of a call with a session. It fails if the device has given
 * the session up. A handle that is nobody's is left to the module to refuse:
 * *own is then NULL, as it is if the device does not count sessions. */
static CK_RV enter(CK_ULONG handle, struct session **own)
{
	CK_RV rv = CKR_OK;
	*own = NULL;
	if (!limited())
		return rv;
	pthread_mutex_lock(&mu);
	struct session *s = find(handle);
	struct place *p = s != NULL ? place_of(s) : NULL;
	if (s != NULL && (p->owner != s->owner || lapsed(p, s->owner) || !use(p, s->owner, 1))) {
		rv = CKR_SESSION_HANDLE_INVALID;
		real->C_CloseSession(handle); /* no call is in it: it could not have lapsed */
		forget(s);
		s = NULL;
	}
	*own = s;
	pthread_mutex_unlock(&mu);
	return rv;
}

/* leave is the end of a call with a session. */
static void leave(struct session *s)
{
	if (s == NULL)
		return;
	pthread_mutex_lock(&mu);
	use(place_of(s), s->owner, -1);
	pthread_mutex_unlock(&mu);
}

/* forget_all gives back the places of all sessions, or of those with a slot. */
static void forget_all(int any, CK_ULONG slot)
{
	if (!limited())
		return;
	pthread_mutex_lock(&mu);
	for (struct session *s = sessions; s < sessions + shared->sessions; s++)
		if (s->handle != 0 && (any || s->slot == slot))
			forget(s);
	pthread_mutex_unlock(&mu);
}

/* ---- Speed ---- */

/* random_word is splitmix64: one atomic addition, and good enough for a queue. */
static uint64_t random_word(void)
{
	uint64_t z = atomic_fetch_add(&shared->random, 0x9e3779b97f4a7c15UL);
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9UL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebUL;
	return z ^ z >> 31;
}

/* serve gives the execution unit that is idle first to a signature, and returns
 * when it will be done. Callers are served in the order in which they come. A
 * process that is killed meanwhile leaves the unit busy till then, as it should:
 * a device does not notice. */
static uint64_t serve(void)
{
	double u = (double)(random_word() >> 11) / (double)(1UL << 53);
	double factor = 1 + (double)shared->jitter / 1e6 * (2 * u - 1);
	uint64_t service = (uint64_t)((double)shared->latency * factor);
	for (;;) {
		word *unit = &shared->free_at[0];
		uint64_t free_at = *unit;
		for (uint64_t i = 1; i < shared->units; i++) {
			uint64_t t = shared->free_at[i];
			if (t < free_at) {
				unit = &shared->free_at[i];
				free_at = t;
			}
		}
		uint64_t start = now();
		if (start < free_at)
			start = free_at;
		if (atomic_compare_exchange_strong(unit, &free_at, start + service))
			return start + service;
	}
}

/* make is the module's part of a signature. */
static CK_RV make(enum function function, CK_ULONG session, void *in, CK_ULONG n, unsigned char *out, CK_ULONG *m)
{
	return function == F_C_Sign ? real->C_Sign(session, in, n, out, m) : real->C_SignFinal(session, out, m);
}

/* sign is C_Sign and C_SignFinal. A question for the length is no signature: it
 * is not counted, meets no faults and takes no time. */
static CK_RV sign(enum function function, CK_ULONG session, void *in, CK_ULONG n, unsigned char *out, CK_ULONG *m)
{
	int wrong = 0;
	struct session *own;
	if (real == NULL)
		return CKR_GENERAL_ERROR;
	CK_RV fault = out == NULL ? CKR_OK : meet(function, &wrong);
	CK_RV rv = enter(session, &own);
	if (rv != CKR_OK)
		return fault != CKR_OK ? fault : rv;
	if (fault != CKR_OK) {
		/* A signature that fails ends the operation, unless the buffer was
		 * too small (PKCS#11 2.40 section 5.11). The module has to see it
		 * end, or it would refuse the session's next C_SignInit. No
		 * mechanism of PKCS#11 2.40 makes longer signatures. */
		unsigned char unseen[8192];
		CK_ULONG length = sizeof unseen;
		if (fault != CKR_BUFFER_TOO_SMALL)
			make(function, session, in, n, unseen, &length);
		rv = fault;
	} else if (out == NULL || shared->latency == 0) {
		rv = make(function, session, in, n, out, m);
	} else {
		uint64_t done = serve();
		rv = make(function, session, in, n, out, m);
		sleep_until(done);
	}
	if (rv == CKR_OK && wrong && *m > 0)
		out[*m - 1] ^= 1;
	leave(own);
	return rv;
}

/* ---- The functions ---- */

static CK_RV C_Sign(CK_ULONG session, void *in, CK_ULONG n, unsigned char *out, CK_ULONG *m)
{
	return sign(F_C_Sign, session, in, n, out, m);
}

static CK_RV C_SignFinal(CK_ULONG session, unsigned char *out, CK_ULONG *m)
{
	return sign(F_C_SignFinal, session, NULL, 0, out, m);
}

/* begin is what a call with a session goes through before it is in the module.
 * If it returns CKR_OK, leave has to follow. */
static CK_RV begin(enum function function, CK_ULONG session, struct session **own)
{
	int wrong;
	CK_RV rv = meet(function, &wrong);
	return rv == CKR_OK ? enter(session, own) : rv;
}

/* begin_slot is the same for a call with a slot. It turns the number that the
 * application sees into the module's. */
static CK_RV begin_slot(enum function function, CK_ULONG *slot)
{
	int wrong;
	CK_RV rv = meet(function, &wrong);
	if (rv == CKR_OK)
		*slot -= shared->slot_offset;
	return rv;
}

static CK_RV C_Initialize(void *args)
{
	int wrong;
	const char *problem = attach();
	if (problem != NULL) {
		/* The code alone would leave a person in the dark. */
		fprintf(stderr, "device: %s\n", problem);
		return CKR_GENERAL_ERROR;
	}
	CK_RV rv = meet(F_C_Initialize, &wrong);
	if (rv == CKR_OK)
		rv = real->C_Initialize(args);
	if (rv == CKR_OK) {
		pthread_mutex_lock(&mu);
		initialised = 1;
		pthread_mutex_unlock(&mu);
	}
	return rv;
}

static CK_RV C_Finalize(void *reserved)
{
	int wrong;
	CK_RV rv = meet(F_C_Finalize, &wrong);
	if (rv == CKR_OK)
		rv = real->C_Finalize(reserved);
	if (rv == CKR_OK) {
		forget_all(1, 0);
		pthread_mutex_lock(&mu);
		initialised = 0;
		pthread_mutex_unlock(&mu);
	}
	return rv;
}

static CK_RV C_GetInfo(void *info)
{
	int wrong;
	CK_RV rv = meet(F_C_GetInfo, &wrong);
	return rv == CKR_OK ? real->C_GetInfo(info) : rv;
}

/* C_GetFunctionList gives out the list even if there is no module to use it
 * with: bindings do not look at the code and call through the list. C_Initialize
 * then fails, and says why. */
__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct functions **out)
{
	int wrong;
	CK_RV rv = attach() == NULL ? meet(F_C_GetFunctionList, &wrong) : CKR_OK;
	*out = &list;
	return rv;
}

static CK_RV C_GetSlotList(unsigned char present, CK_ULONG *slots, CK_ULONG *n)
{
	int wrong;
	CK_RV rv = meet(F_C_GetSlotList, &wrong);
	if (rv == CKR_OK)
		rv = real->C_GetSlotList(present, slots, n);
	if (rv == CKR_OK && slots != NULL)
		for (CK_ULONG i = 0; i < *n; i++)
			slots[i] += shared->slot_offset;
	return rv;
}

static CK_RV C_GetTokenInfo(CK_ULONG slot, struct token_info *info)
{
	CK_RV rv = begin_slot(F_C_GetTokenInfo, &slot);
	if (rv == CKR_OK)
		rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK) {
		info->flags = (info->flags | shared->flags_set) & ~shared->flags_cleared;
		if (limited())
			info->max_sessions = info->max_rw_sessions = shared->sessions;
	}
	return rv;
}

static CK_RV C_OpenSession(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session)
{
	CK_RV rv = begin_slot(F_C_OpenSession, &slot);
	if (rv != CKR_OK)
		return rv;
	if (!limited())
		return real->C_OpenSession(slot, flags, application, notify, session);
	struct session *own = claim(slot);
	if (own == NULL)
		return CKR_SESSION_COUNT;
	rv = real->C_OpenSession(slot, flags, application, notify, session);
	pthread_mutex_lock(&mu);
	if (rv == CKR_OK)
		own->handle = *session;
	else
		forget(own);
	pthread_mutex_unlock(&mu);
	if (rv == CKR_OK)
		leave(own);
	return rv;
}

static CK_RV C_CloseSession(CK_ULONG session)
{
	struct session *own;
	CK_RV rv = begin(F_C_CloseSession, session, &own);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_CloseSession(session);
	if (rv == CKR_OK && own != NULL) {
		pthread_mutex_lock(&mu);
		forget(own);
		pthread_mutex_unlock(&mu);
	} else {
		leave(own);
	}
	return rv;
}

static CK_RV C_CloseAllSessions(CK_ULONG slot)
{
	CK_RV rv = begin_slot(F_C_CloseAllSessions, &slot);
	if (rv == CKR_OK)
		rv = real->C_CloseAllSessions(slot);
	if (rv == CKR_OK)
		forget_all(0, slot);
	return rv;
}

static CK_RV C_GetSessionInfo(CK_ULONG session, struct session_info *info)
{
	struct session *own;
	CK_RV rv = begin(F_C_GetSessionInfo, session, &own);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_GetSessionInfo(session, info);
	leave(own);
	if (rv == CKR_OK)
		info->slot += shared->slot_offset;
	return rv;
}

static CK_RV C_WaitForSlotEvent(CK_ULONG flags, CK_ULONG *slot, void *reserved)
{
	int wrong;
	CK_RV rv = meet(F_C_WaitForSlotEvent, &wrong);
	if (rv == CKR_OK)
		rv = real->C_WaitForSlotEvent(flags, slot, reserved);
	if (rv == CKR_OK)
		*slot += shared->slot_offset;
	return rv;
}

/* The others. */
#define NONE(name, params, args)
#define WITH_SLOT(name, params, args) \
	static CK_RV name params \
	{ \
		CK_RV rv = begin_slot(F_##name, &slot); \
		return rv == CKR_OK ? real->name args : rv; \
	}
#define WITH_SESSION(name, params, args) \
	static CK_RV name params \
	{ \
		struct session *own; \
		CK_RV rv = begin(F_##name, session, &own); \
		if (rv == CKR_OK) { \
			rv = real->name args; \
			leave(own); \
		} \
		return rv; \
	}
FUNCTIONS(NONE, WITH_SLOT, WITH_SESSION)

static struct functions list = {
	.version = {2, 40}, /* until the module has said its own */
#define ENTRY(name, params, args) .name = name,
	FUNCTIONS(ENTRY, ENTRY, ENTRY)
};

/* crl CRL ISSUER UNIVERSE LOOKUPS: what OpenSSL takes for an X.509 CRL, in CPU
   time of the thread, as JSON. Serial numbers are 2^48 and an index below
   UNIVERSE. */
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static unsigned char *contents(const char *path, long *size)
{
	FILE *f = fopen(path, "rb");
	unsigned char *b;
	if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (*size = ftell(f)) < 0 || (b = malloc(*size)) == NULL)
		exit(1);
	rewind(f);
	if (fread(b, 1, *size, f) != (size_t)*size)
		exit(1);
	fclose(f);
	return b;
}

static int lookup(X509_CRL *crl, ASN1_INTEGER *serial, uint64_t index)
{
	X509_REVOKED *entry;
	ASN1_INTEGER_set_uint64(serial, (uint64_t)1 << 48 | index);
	return X509_CRL_get0_by_serial(crl, &entry, serial) == 1;
}

int main(int argc, char **argv)
{
	long size, issuer_size;
	if (argc != 5)
		return 2;
	unsigned char *der = contents(argv[1], &size), *issuer_der = contents(argv[2], &issuer_size);
	uint64_t universe = strtoull(argv[3], NULL, 10), x = 88172645463325252u, hits = 0;
	long n = atol(argv[4]);
	const unsigned char *p = issuer_der;
	X509 *issuer = d2i_X509(NULL, &p, issuer_size);
	ASN1_INTEGER *serial = ASN1_INTEGER_new();

	double start = now();
	p = der;
	X509_CRL *crl = d2i_X509_CRL(NULL, &p, size);
	if (crl == NULL || issuer == NULL || X509_CRL_verify(crl, X509_get0_pubkey(issuer)) != 1)
		return 1;
	lookup(crl, serial, 0); /* the first one sorts */
	double loaded = now();

	for (long i = 0; i < n; i++) { /* each after the one before */
		hits += lookup(crl, serial, (uint64_t)((unsigned __int128)x * universe >> 64));
		x = (x ^ hits) * 6364136223846793005u + 1442695040888963407u;
	}
	double end = now();
	printf("{\"version\": \"%s\", \"load\": %f, \"lookup\": %f, \"hits\": %lu}\n", OpenSSL_version(OPENSSL_VERSION_STRING), loaded - start,
	       (end - loaded) * 1e6 / n, (unsigned long)hits);
	return 0;
}

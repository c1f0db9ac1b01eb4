package entra

import "autopilot-unassign/internal/upstream"

// reasonOfNumber returns the reason behind a number of Entra ID's errors (AADSTS) that says more than the error's word, ""
// for another number, from Microsoft's list (https://learn.microsoft.com/entra/identity-platform/reference-error-codes). It
// knows the numbers that an app which signs in by itself can meet.
func reasonOfNumber(number int) upstream.Reason {
	switch number {
	case 7000222: // the client secret has expired
		return upstream.CredentialExpired
	case 7000215, 70002, // the client secret is wrong
		7000218, 900144, // the request has no credential
		700025,                                // the app is a public client
		700027, 700030, 700024, 50012, 500133, // the certificate, or the time of the assertion
		// no federated credential for this issuer, audience and subject
		50027, 50048, 70021, 70025, 700211, 700212, 700213, 700229,
		53003, 53000, 53001, 50131, 530032, // Conditional Access
		7000112, 70001, 1000031, // the app is disabled
		90094, 65001: // no consent
		return upstream.CredentialRejected
	case 700016, 700011, 7000229: // no such app, or no service principal of it, in the tenant
		return upstream.AppNotFound
	case 90002, 90019, 50059, 50128, 50029, // no such tenant
		90038, 90043, 90051, 900382, 900432, 50049, 1000104, // the tenant is in another cloud
		50194, 9001023, 90124, 90130: // not a tenant, but common or consumers
		return upstream.TenantNotFound
	case 500011, 500014, 650052, 650054, 650057, 650056, 65005, // the resource is not in the tenant, or is disabled
		70011, 700022, 700023, 28002, 28003, 1002012, 901002: // the scope
		return upstream.ScopeInvalid
	case 90006, 90012, 90024, 90033, 90055, 90090, 90091, 50033, 50087, 50196, 70012:
		return upstream.Unavailable
	}
	return ""
}

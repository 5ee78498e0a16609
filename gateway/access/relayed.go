package access

import "net/http"

// CarriesRelayed says whether a request for a relayed address has a token that can
// only be for us: sb-hc-token or ServiceBusAuthorization.
func CarriesRelayed(r *http.Request) bool { return findRelayed(r).source != Nowhere }

// Package js holds the JavaScript client as it is shipped, for programs that serve it to pages.
package js

import _ "embed"

// Module is the text of outrelay.js, to be served as text/javascript. It is not to be changed.
//
//go:embed outrelay.js
var Module []byte

// Package demo is the command "outrelay demo": it replays a real week of
// earthquakes through a real gateway to three real subscribers, and shows it on a
// page with a map.
//
// Everything goes the way that a stranger's events would go: over HTTPS into the
// gateway, through its log, and out over WebSockets. What the subscribers should
// get is read from the file of the week alone, never asked of the gateway.
//
// The page is plain files without anything from elsewhere. README.md tells where
// the data comes from and which parts of the page tests may rely on.
package demo

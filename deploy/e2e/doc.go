// Package e2e has the tests that need more than Go: npm packages, curl, a browser.
//
// They start the real command as a process, built with the race detector, and
// talk to it with other people's clients, unmodified. What they need is installed
// by the script prepare beside this file; "make test" at the project's root runs
// it first. The package is a module of its own, so that nothing here becomes a
// dependency of the product.
package e2e

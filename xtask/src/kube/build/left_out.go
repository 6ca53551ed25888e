package kubernetes

import (
	"sync"
	"testing"
)

// probed has the tests that have made a probe.
var probed sync.Map

// leftOut says whether a probe is left out, as those by SCTP are: this kernel has no sockets for it. A test that begins
// with such a probe is skipped.
func leftOut(t *testing.T, protocol string) bool {
	t.Helper()
	if protocol != "sctp" {
		probed.Store(t, true)
		return false
	}
	if _, some := probed.Load(t); !some {
		t.Skip("this kernel has no SCTP sockets")
	}
	t.Log("left out: SCTP probe")
	return true
}

package signal_test

import (
	"testing"

	"github.com/signal-team/signal/emitter/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

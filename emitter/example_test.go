package emitter_test

import (
	"context"
	"fmt"
	"os"

	"github.com/signal-team/signal/emitter"
	"github.com/signal-team/signal/emitter/redistest"
	"github.com/signal-team/signal/proto"
)

// examplesOn gives the examples their Redis, as the environment does in production.
func examplesOn(srv *redistest.Server) { os.Setenv(emitter.EnvPrefix+"ADDRS", srv.Addr) }

// A Sale service tells every till in the room that an order was paid.
func ExampleEmitter_SendToRoom_sale() {
	type order struct {
		ID    string `json:"id"`
		Total int    `json:"total"` // cents
	}
	ctx := context.Background()
	signal, err := emitter.FromEnv(ctx) // once, at start
	if err != nil {
		fmt.Println(err)
		return
	}
	defer signal.Close()

	o := order{ID: "42", Total: 125_000}
	receipt, err := signal.SendToRoom(ctx, "orders", "order.paid", o, emitter.EventID(proto.EventID("order-"+o.ID+"-paid")))
	if err != nil {
		fmt.Println(err) // errors.Is(err, emitter.ErrUnavailable): try again
		return
	}
	fmt.Printf("%s went to %d nodes\n", receipt.EventID, receipt.Receivers)
	// Output: order-42-paid went to 0 nodes
}

// A Payment service tells one person, on every till and tab where that person is.
func ExampleEmitter_SendToUser_payment() {
	ctx := context.Background()
	signal, err := emitter.FromEnv(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer signal.Close()

	receipt, err := signal.SendToUser(ctx, "cashier-7", "payment.confirmed", map[string]any{"order": "42", "method": "card"},
		emitter.EventID("payment-9-confirmed"))
	fmt.Println(receipt.EventID, err)
	// Output: payment-9-confirmed <nil>
}

// A job tells whoever watches how far it is. Short events carry just what the page
// needs; the last one says where the result is.
func ExampleEmitter_Send_progress() {
	ctx := context.Background()
	signal, err := emitter.FromEnv(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer signal.Close()

	job := proto.ToRoom("job:7")
	for percent := 50; percent <= 100; percent += 50 {
		if _, err := signal.Send(ctx, job, "job.progress", percent, emitter.Live()); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("done")
	// Output: done
}

// Everyone who edits a document hears of a change, but for the one who made it.
func ExampleExcept() {
	ctx := context.Background()
	signal, err := emitter.FromEnv(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer signal.Close()

	editor := proto.ClientID("abcdefg2.abcdefghijklmno7") // from the request that changed it
	_, err = signal.SendToRoom(ctx, "doc:9", "doc.changed", map[string]int{"version": 3}, emitter.Except(editor))
	fmt.Println(err)
	// Output: <nil>
}

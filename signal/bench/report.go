//go:build linux

package bench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Quartiles are the lower quartile, the median and the upper quartile.
type Quartiles [3]float64

func quartiles(values []float64) (q Quartiles) {
	slices.Sort(values)
	for i, part := range []float64{0.25, 0.5, 0.75} {
		at := part * float64(len(values)-1)
		low := int(at)
		high := min(low+1, len(values)-1)
		q[i] = values[low] + (at-float64(low))*(values[high]-values[low])
	}
	return q
}

func of(runs []Run, value func(Run) float64) Quartiles {
	all := make([]float64, 0, len(runs))
	for _, r := range runs {
		all = append(all, value(r))
	}
	return quartiles(all)
}

// Ratio is the CPU of a delivery to that of the floor's, of each run in which they took
// turns. It is zero without a floor.
func (r Result) Ratio() Quartiles {
	if len(r.Floor) == 0 || len(r.Floor) != len(r.Runs) {
		return Quartiles{}
	}
	ratios := make([]float64, 0, len(r.Runs))
	for i := range r.Runs {
		ratios = append(ratios, r.Runs[i].PerDelivery()/r.Floor[i].PerDelivery())
	}
	return quartiles(ratios)
}

// PerClient is the KiB of resident memory of one connection, of Idle.
func (r Result) PerClient() float64 { return float64(r.Runs[0].RSS) / 1024 / float64(r.Clients) }

// WriteTable prints results for people: medians, with the quartiles in brackets.
func WriteTable(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "scenario\tclients\tnodes\tin flight\tframe bytes\tdeliveries/s\tCPU µs/delivery\tratio to floor\tp50\tp99\tKiB/client\t")
	var notes []string
	for _, r := range results {
		if len(r.Runs) == 0 {
			continue
		}
		if r.Scenario == Idle {
			memory := "-"
			if r.Local {
				memory = fmt.Sprintf("%.2f", r.PerClient())
			}
			fmt.Fprintf(t, "%s\t%d\t%d\t-\t-\t-\t-\t-\t-\t-\t%s\t\n", r.Scenario, r.Clients, r.Nodes, memory)
			continue
		}
		rate := of(r.Runs, func(r Run) float64 { return float64(r.Deliveries-r.Busy) / r.Time.Seconds() })
		cpu := of(r.Runs, func(r Run) float64 { return r.PerDelivery() / 1e3 })
		p50, p99 := of(r.Runs, func(r Run) float64 { return float64(r.P50) }), of(r.Runs, func(r Run) float64 { return float64(r.P99) })
		inFlight := fmt.Sprint(r.Window)
		if r.Rate > 0 {
			inFlight = fmt.Sprintf("%g ev/s", r.Rate)
			if reached := of(r.Runs, func(r Run) float64 { return float64(r.Events) / r.Time.Seconds() })[1]; reached < 0.95*r.Rate {
				notes = append(notes, fmt.Sprintf("%s: asked for %g events/s, reached %.0f; a larger --window may help", r.Scenario, r.Rate, reached))
			}
		}
		if r.Busy > 0 {
			busy := of(r.Runs, func(r Run) float64 { return float64(r.Busy) / r.Time.Seconds() })
			notes = append(notes, fmt.Sprintf("%s: %.0f deliveries/s more in the busy room of %d clients; CPU is that of all deliveries", r.Scenario, busy[1], r.Busy))
		}
		if len(r.Floor) > 0 {
			floor := of(r.Floor, func(r Run) float64 { return r.PerDelivery() / 1e3 })
			notes = append(notes, fmt.Sprintf("%s: the floor, a bare write(2) for each delivery to %d clients, one frame in flight: %s µs", r.Scenario, r.FloorClients, spread(floor)))
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%d\t%.0f\t%s\t%s\t%s\t%s\t-\t\n", r.Scenario, r.Clients, r.Nodes, inFlight, r.Frame,
			rate[1], spread(cpu), spread(r.Ratio()), short(p50[1]), short(p99[1]))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range notes {
		fmt.Fprintln(w, n)
	}
	return nil
}

func spread(q Quartiles) string {
	if q[1] == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f, %.2f)", q[1], q[0], q[2])
}

func short(ns float64) string {
	d := time.Duration(ns)
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

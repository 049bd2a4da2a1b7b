package checker

import "fmt"

// A Rule is one of the promises.
type Rule string

// The promises.
const (
	Phantom    Rule = "R1 phantom"       // what is received was sent, and to this client
	Repeated   Rule = "R2 repeated"      // no event twice, until the client is told of a loss
	Broken     Rule = "R3 broken"        // each event's place follows from its content and the place before
	Agreement  Rule = "R4 agreement"     // one place, one event; one number, one event, unless Redis lost some
	Lost       Rule = "R5 lost"          // from where a client stands, nothing is left out
	Unexcused  Rule = "R6 unexcused"     // what was acknowledged is there at the end, unless Redis lost it
	Behind     Rule = "R7 behind"        // at the end each client stands where its room does
	FalseAlarm Rule = "R8 false alarm"   // nobody is told of a loss that was none
	Revoked    Rule = "R9 revoked"       // who may hear nothing any more hears nothing
	RealTime   Rule = "R10 out of order" // what was acknowledged before another was sent has the lower number
)

// A Violation is a promise that was not kept, at one of the records.
type Violation struct {
	Rule   Rule
	Record Record
	Why    string
}

func (v Violation) String() string {
	r := v.Record
	return fmt.Sprintf("%s: %s; at %s %s %s room %s id %s position %s", v.Rule, v.Why, r.At, r.Client, r.Kind, r.Room, r.ID, r.Position)
}

package proto

// A Target is where an event goes: one client, one user with all connections, a
// room, or everyone. The zero Target is nowhere, and refused by Check.
type Target struct {
	kind TargetKind
	name string
}

// A TargetKind says what a Target's name names.
type TargetKind string

// The four kinds of target.
const (
	KindClient    TargetKind = "client"
	KindUser      TargetKind = "user"
	KindRoom      TargetKind = "room"
	KindBroadcast TargetKind = "broadcast"
)

// ToClient is one connection.
func ToClient(id ClientID) Target { return Target{KindClient, string(id)} }

// ToUser is every connection of one user, on all nodes.
func ToUser(u UserID) Target { return Target{KindUser, string(u)} }

// ToRoom is every client that has joined the room, on all nodes.
func ToRoom(r Room) Target { return Target{KindRoom, string(r)} }

// ToEveryone is every authenticated client of every node.
func ToEveryone() Target { return Target{kind: KindBroadcast} }

// Kind says what the target names.
func (t Target) Kind() TargetKind { return t.kind }

// String is the target for logs and errors: `room "orders"`.
func (t Target) String() string {
	switch t.kind {
	case "":
		return "no target"
	case KindBroadcast:
		return "everyone"
	}
	return string(t.kind) + " " + quote(t.name)
}

// Client is the client to which the event goes, if it goes to one.
func (t Target) Client() (ClientID, bool) { return ClientID(t.name), t.kind == KindClient }

// Room is the room to which the event is published: users and everyone are rooms
// too. It is empty for a client, who has no room.
func (t Target) Room() Room {
	switch t.kind {
	case KindUser:
		return UserRoom(UserID(t.name))
	case KindRoom:
		return Room(t.name)
	case KindBroadcast:
		return Broadcasts
	}
	return ""
}

// Check says whether the target may come from outside.
func (t Target) Check() error {
	switch t.kind {
	case KindClient:
		return ClientID(t.name).Check()
	case KindUser:
		return UserID(t.name).Check()
	case KindRoom:
		return Room(t.name).Check()
	case KindBroadcast:
		return nil
	}
	return &NameError{"target", "", "is missing: use ToClient, ToUser, ToRoom or ToEveryone", CodeBadRequest}
}

package proto_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/signal-team/signal/proto"
)

// TestDecode: an object is read in one way, or not at all.
func TestDecode(t *testing.T) {
	type inner struct {
		Room proto.Room `json:"room"`
	}
	type embedded struct {
		Subject string `json:"sub"`
	}
	type target struct {
		embedded
		To     inner           `json:"to"`
		Maybe  *inner          `json:"maybe"`
		List   []inner         `json:"list"`
		Grants *proto.Grants   `json:"rooms"`
		Data   json.RawMessage `json:"data"`
		N      int             `json:"n"`
	}
	for text, wrong := range map[string]string{
		`{"sub":"u1","to":{"room":"a"},"maybe":{"room":"b"},"list":[{"room":"c"},{"room":"d"}],"rooms":["x"],"data":{"A":1,"A":"\ud800"},"n":3}`: "",
		`{"maybe":null,"rooms":null,"other":{"x":1,"X":2}}`: "",
		`{"sub":"\ud83d\ude00"}`:                            "",
		`{"SUB":"u1"}`:                                      "unknown field",
		`{"to":{"ROOM":"a"}}`:                               "unknown field",
		`{"list":[{"Room":"a"}]}`:                           "unknown field",
		`{"room` + "\\u017f" + `":["x"]}`:                   "unknown field",
		`{"sub":"a","sub":"b"}`:                             "twice",
		`{"to":{"room":"a","room":"b"}}`:                    "twice",
		`{"sub":"` + "\xff" + `"}`:                          "UTF-8",
		`{"sub":"\ud800"}`:                                  "surrogate",
		`{"sub":"\ud800x"}`:                                 "surrogate",
		`{"sub":"\udc00\ud800"}`:                            "surrogate",
		`{"rooms":["\udfff"]}`:                              "surrogate",
		`{"to":{"room":"\ud8ff\n"}}`:                        "surrogate",
		`{"n":"3"}`:                                         "n",
		`[]`:                                                "object",
		`{} {}`:                                             "JSON",
		``:                                                  "empty",
		`{"data":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`: "deeper",
	} {
		var got target
		err := proto.DecodeKnown([]byte(text), &got)
		if strings.Contains(text, "other") {
			if err == nil {
				t.Errorf("%s: an unknown key is taken", text)
			}
			err = proto.Decode([]byte(text), &got)
		}
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%s: %v, want %q", text, err, wrong)
		}
		if strings.HasPrefix(text, `{"sub":"u1","to"`) && (got.Subject != "u1" || got.To.Room != "a" || got.Maybe.Room != "b" || len(got.List) != 2 || got.List[1].Room != "d" ||
			len(*got.Grants) != 1 || string(got.Data) != `{"A":1,"A":"\ud800"}` || got.N != 3) {
			t.Errorf("read as %+v", got)
		}
	}
}

// FuzzDecode: what is read is valid, and what was written is read again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"user":"u1","at":5}`))
	f.Add([]byte(`{"user":"\ud83d\ude00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again proto.Revocation
		if proto.Decode(b, &r) != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("%q is read", b)
		}
		if err := proto.Decode(r.Encode(), &again); err != nil || again != r {
			t.Fatalf("%+v is read as %+v, %v", r, again, err)
		}
	})
}

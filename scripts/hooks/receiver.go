//go:build ignore

// A receiver of Signal's hooks: HOOK_SECRET=… go run receiver.go 127.0.0.1:3000
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

type object = map[string]any

// answer is false for no, nil where there is nothing to ask.
func answer(path string, q object) any {
	switch path {
	case "/auth": // in place of authenticateFn
		if q["token"] != "letmein" {
			return false
		}
		return object{"userId": "cashier-7", "rooms": []string{"orders"}}
	case "/rooms": // validateRoomFn
		return object{"rooms": q["rooms"]}
	case "/message": // messageHandler
		return object{"events": []object{{"event": fmt.Sprint(q["event"], ":response"), "data": q["data"]}}}
	case "/notices": // clientConnectedFn, clientDisconnectedFn
		log.Print(q["notices"])
		return object{}
	}
	return nil
}

// signed says whether it is Signal who asks, and now: t=<seconds>,v1=<hex>.
func signed(header string, body []byte) bool {
	var t int64
	_, err := fmt.Sscanf(header, "t=%d,", &t)
	mac := hmac.New(sha256.New, []byte(os.Getenv("HOOK_SECRET")))
	fmt.Fprintf(mac, "%d.%s", t, body)
	want := fmt.Sprintf("t=%d,v1=%x", t, mac.Sum(nil))
	return err == nil && hmac.Equal([]byte(want), []byte(header)) && time.Since(time.Unix(t, 0)).Abs() < 5*time.Minute
}

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", l.Addr())
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q object
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || !signed(r.Header.Get("Signal-Signature"), body) || json.Unmarshal(body, &q) != nil {
			w.WriteHeader(http.StatusBadRequest)
		} else if said := answer(r.URL.Path, q); said == nil {
			w.WriteHeader(http.StatusNotFound)
		} else if said == false {
			w.WriteHeader(http.StatusForbidden) // tills that are refused do not come back
		} else {
			_ = json.NewEncoder(w).Encode(said)
		}
	})))
}

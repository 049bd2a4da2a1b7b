// A receiver of Signal's hooks: HOOK_SECRET=… go run receiver.go 127.0.0.1:3000
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

// answer says a status, and what the original's callbacks returned.
func answer(path string, q map[string]any) (int, any) {
	switch path {
	case "/auth": // in place of authenticateFn
		if q["token"] == "letmein" {
			return 200, map[string]any{"userId": "cashier-7", "rooms": []string{"orders"}}
		}
		return 403, nil // tills that are refused do not come back
	case "/rooms": // validateRoomFn
		return 200, map[string]any{"rooms": q["rooms"]}
	case "/message": // messageHandler
		echo := map[string]any{"event": fmt.Sprint(q["event"], ":response"), "data": q["data"]}
		return 200, map[string]any{"events": []any{echo}}
	case "/notices": // clientConnectedFn, clientDisconnectedFn
		log.Print(q["notices"])
		return 200, nil
	}
	return 404, nil
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
	log.Fatal(http.ListenAndServe(os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q map[string]any
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || !signed(r.Header.Get("Signal-Signature"), body) || json.Unmarshal(body, &q) != nil {
			w.WriteHeader(400)
			return
		}
		status, said := answer(r.URL.Path, q)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(said)
	})))
}

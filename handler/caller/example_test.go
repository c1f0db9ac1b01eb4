package caller_test

import (
	"fmt"
	"net/http"
	"time"

	"autopilot-unassign/handler/caller"
)

// A sender signs the body it sends with its key, under an id of its own choice and at the present time.
func ExampleSign() {
	key, err := caller.DecodeSignatureKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	h := http.Header{}
	caller.Sign(h, key, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	fmt.Println(h.Get("webhook-signature"))
	// Output: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
}

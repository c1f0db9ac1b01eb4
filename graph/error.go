package graph

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"autopilot-unassign/internal/upstream"
)

// classifyFailure reduces a response that is not a success to an *upstream.Error. It serves whole responses and the
// items of a batch.
//
// The status decides. The body refines it where it can be parsed: Intune's errors come plain, as JSON in the message,
// as JSON in JSON in the message, as HTML in the message, with a sentence for a code, and not as JSON at all.
func classifyFailure(status int, header http.Header, body []byte) *upstream.Error {
	text := parseErrorBody(body)
	e := &upstream.Error{
		Service:    upstream.Graph,
		Status:     status,
		Code:       upstream.PlainCode(text.code),
		RequestID:  requestID(header),
		RetryAfter: upstream.RetryAfter(header, time.Now()),
	}
	if e.RetryAfter == 0 {
		e.RetryAfter = text.retryAfter
	}
	switch {
	case status < 400:
		e.Reason = upstream.BadAnswer
	case status < 500 && (text.mentions("x-msft-approval") || text.mentions("Multi Admin Approval")):
		e.Reason = upstream.ApprovalRequired
	case status >= 500 && (text.code == "CancelledOnServiceTimeout" || text.mentions("CancelOnTimeout")):
		e.Reason = upstream.Timeout // Intune has carried out such a request
	case status == http.StatusServiceUnavailable, status == http.StatusRequestTimeout:
		e.Reason = upstream.Unavailable
	case status == http.StatusGatewayTimeout:
		e.Reason = upstream.Timeout
	case status >= 500:
		e.Reason = upstream.Internal
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Reason = upstream.Forbidden
	case status == http.StatusTooManyRequests:
		e.Reason = upstream.Throttled
	case status == http.StatusConflict:
		e.Reason = upstream.Conflict
	case status == http.StatusPreconditionFailed:
		e.Reason = upstream.StateChanged
	case status == http.StatusLocked:
		e.Reason = upstream.Locked
	case text.mentions("Request not applicable to target tenant"):
		e.Reason = upstream.TenantNotEnabled
	case text.mentions("Invalid version:"): // the endpoint's root is wrong; the device may exist
		e.Reason = upstream.Rejected
	case status == http.StatusNotFound, text.code == "ResourceNotFound", text.mentions("Cannot find device"):
		e.Reason = upstream.NotFound
	case text.code == "InternalError", text.code == "InternalServerError":
		e.Reason = upstream.Internal
	default:
		e.Reason = upstream.Rejected
	}
	return e
}

// errorBody holds the parts of a failure's body that could be parsed.
type errorBody struct {
	code       string
	message    string // of all levels, for mentions alone: it is never shown nor logged
	retryAfter time.Duration
}

func (b errorBody) mentions(phrase string) bool {
	return strings.Contains(strings.ToLower(b.message), strings.ToLower(phrase))
}

// parseErrorBody parses the body of a failure as far as it can.
func parseErrorBody(body []byte) errorBody {
	var outer struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal(body, &outer) != nil {
		return errorBody{}
	}
	parsed := errorBody{code: outer.Error.Code, message: outer.Error.Message}
	inner := outer.Error.Message
	for range 3 { // levels of JSON in a message; two have been seen
		var nested struct {
			ErrorCode  string
			Message    string
			RetryAfter jsonText
		}
		if json.Unmarshal([]byte(inner), &nested) != nil {
			break
		}
		if nested.ErrorCode != "" && (parsed.code == "" || parsed.code == "UnknownError") {
			parsed.code = nested.ErrorCode
		}
		if parsed.retryAfter == 0 {
			parsed.retryAfter = upstream.ParseWait(string(nested.RetryAfter), time.Second)
		}
		parsed.message += "\n" + nested.Message
		inner = nested.Message
	}
	return parsed
}

// jsonText is a JSON value as text: a string without its quotes, null as "", and other values as they stand.
type jsonText string

// UnmarshalJSON never fails.
func (t *jsonText) UnmarshalJSON(text []byte) error {
	var s *string
	switch err := json.Unmarshal(text, &s); {
	case err != nil:
		*t = jsonText(text)
	case s != nil:
		*t = jsonText(*s)
	default:
		*t = ""
	}
	return nil
}

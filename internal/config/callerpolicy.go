package config

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"autopilot-unassign/handler"
)

// checkPolicies parses CALLER_POLICY. Its names are names of callers and sources of events.
func (s *settings) checkPolicies(c *Config) {
	if s.policies == "" {
		return
	}
	d := json.NewDecoder(strings.NewReader(s.policies))
	d.DisallowUnknownFields()
	var policies map[string]struct {
		handler.CallerPolicy

		DevicesPerHour *int `json:"devicesPerHour"`
	}
	if err := d.Decode(&policies); err != nil || !errors.Is(d.Decode(&struct{}{}), io.EOF) {
		s.addf(`CALLER_POLICY must be JSON such as {"webhook-servicenow":{"groupTags":["MTR-*"],"requireExpected":true,"devicesPerHour":50}}`)
		return
	}
	c.Policy.Callers = map[string]handler.CallerPolicy{}
	for name, policy := range policies {
		members := splitList(name)
		id, n := "", 0
		if slices.Contains(handler.Sources(), handler.Source(name)) {
			id, n = name, len(members)
		} else if len(members) > 0 {
			id, n = c.callerID(members)
		}
		_, twice := c.Policy.Callers[id]
		switch {
		case n == 0 || n != len(members):
			s.addf("CALLER_POLICY names a caller that is not configured: use %s, or a source of events: %v",
				c.callerForms(), handler.Sources())
		case twice:
			s.addf("CALLER_POLICY names a caller twice")
		case policy.DevicesPerHour != nil && *policy.DevicesPerHour < 1, policy.GroupTags != nil && len(policy.GroupTags) == 0:
			// An administrator means no device by either, and the handler would take it for every device.
			s.addf("CALLER_POLICY has a devicesPerHour below 1 or groupTags without a tag: remove it for no limit")
		case slices.ContainsFunc(policy.GroupTags, func(tag string) bool { _, err := parseGroupTag(tag); return err != nil }):
			s.addf("CALLER_POLICY has a group tag with a * that is not at its end")
		}
		if policy.DevicesPerHour != nil {
			policy.CallerPolicy.DevicesPerHour = *policy.DevicesPerHour
		}
		c.Policy.Callers[id] = policy.CallerPolicy
	}
}

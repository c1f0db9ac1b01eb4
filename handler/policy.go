package handler

import (
	"slices"
	"strings"
)

// Policy restricts the requests and events that this function carries out. The zero Policy allows everything.
type Policy struct {
	// GroupTags are the group tags of the devices that may be changed, exactly as written; a * at the end matches any
	// suffix. None allows every device.
	GroupTags []string
	// PerMinute is the number of devices that a caller may name in a minute, 0 for no limit. Each instance counts for
	// itself. Events do not count.
	PerMinute int
	// DryRun makes every request and event a dry run.
	DryRun bool
	// Callers has further restrictions for single callers, by the ID of the Caller.
	Callers map[string]CallerPolicy
}

// CallerPolicy restricts one caller. The zero CallerPolicy allows everything.
type CallerPolicy struct {
	GroupTags       []string `json:"groupTags"`       // as in Policy
	RequireExpected bool     `json:"requireExpected"` // each change must name the expected account
	DevicesPerHour  int      `json:"devicesPerHour"`  // changes in an hour, 0 for no limit; each instance counts for itself
}

// Allows reports whether a device with that group tag may be changed.
func (p Policy) Allows(groupTag string) bool { return matchesAny(p.GroupTags, groupTag) }

// AllowsCaller reports whether a caller may change a device with that group tag.
func (p Policy) AllowsCaller(id, groupTag string) bool {
	return p.Allows(groupTag) && matchesAny(p.Callers[id].GroupTags, groupTag)
}

// restrictsTags reports whether the group tag of a device matters for a caller.
func (p Policy) restrictsTags(id string) bool {
	return len(p.GroupTags)+len(p.Callers[id].GroupTags) > 0
}

// matchesAny reports whether a group tag matches one of patterns. No patterns match every group tag.
func matchesAny(patterns []string, groupTag string) bool {
	return len(patterns) == 0 ||
		slices.ContainsFunc(patterns, func(pattern string) bool { return matchTag(pattern, groupTag) })
}

// matchTag reports whether a group tag matches a pattern, which may end with a * for any suffix.
func matchTag(pattern, groupTag string) bool {
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(groupTag, prefix) || pattern == groupTag
}

"""The checks of the five gates, and those of a drill's own course, each with how it decides."""

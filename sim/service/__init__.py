"""The HTTP side of a sync service, in any protocol: forms of requests and answers, templates, metrics and their names.

It does no input or output. The mock serves its default forms; engines, preflight and stages send them. All packages below
`sim.protocols` may import it.
"""

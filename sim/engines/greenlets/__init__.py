"""Clients, HTTP and the phase driver on gevent, for load tests in Locust. Only `locustfiles` imports this package."""

"""What the locustfiles are made of: users, the shape, form fields, the run, its workers and the web page.

Imported by the locustfiles; imports `sim.engines.shared`, `sim.engines.greenlets` and the judging packages of `drills`.
"""

"""Our part of Locust's web page: the form, the tabs Gates and Sync, a page with charts, buttons and downloads.

Imported by `locustfiles.load.setup`; imports `locustfiles.load.run`.
"""

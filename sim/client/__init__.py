"""One client as pure code: sessions, cursors, policies, backoff; they know no protocol.

They send intents and take events (`sim.protocols`). Imported by `sim/drill`, the engines, planning and `drills`.
"""

"""Identities for detections from frame to frame, by an existing tracker library."""

"""The journal as episodes of alerts: when one begins, what it says, where it goes. Pure."""

"""The scripted provider with its own bill, small agents, and the story that `demo` tells."""

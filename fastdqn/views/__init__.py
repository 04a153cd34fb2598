"""What people look at: the dashboard, curves, films, exported policies."""

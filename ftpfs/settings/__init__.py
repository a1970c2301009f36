"""What the user asked for: options, named servers, credentials, and how those stay secret."""

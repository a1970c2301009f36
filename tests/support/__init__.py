"""What the tests stand on: real FTP servers, certificates, and a relay that breaks things."""

"""What the tests build on: real FTP servers, certificates, and a relay that breaks things."""

"""The CloudFormation stack: made, changed, read and removed."""

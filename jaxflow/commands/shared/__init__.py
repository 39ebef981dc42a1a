"""What the commands share: settings, progress, output and interruption."""

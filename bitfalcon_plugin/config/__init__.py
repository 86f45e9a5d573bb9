"""What every room needs: settings, files, errors, devices, callbacks."""

"""The nudged elastic band and AutoNEB: settings, runner, report and picture."""

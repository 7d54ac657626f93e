"""Reports to the platform that runs the process, such as Kubeflow or systemd."""

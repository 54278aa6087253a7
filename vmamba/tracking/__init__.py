"""The run folder (the truth of a run) and its views: curves, MLflow. No torch and no mlflow at module level."""

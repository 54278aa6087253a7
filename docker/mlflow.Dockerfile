# The MLflow server of compose.yaml: MLflow of the version this project is tested with, its users, PostgreSQL's driver.
FROM python:3.12-slim
RUN pip install --no-cache-dir "mlflow[auth]==3.17.2" "psycopg2-binary>=2.9.10,<3" \
    && useradd --create-home mlflow \
    && install --directory --owner=mlflow /artifacts
COPY --chown=mlflow auth.ini /etc/mlflow/auth.ini
USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000

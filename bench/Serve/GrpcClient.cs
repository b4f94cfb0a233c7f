using Grpc.Core;
using Grpc.Net.Client;
using Native.V1;

namespace Native.Bench.Serve;

/// <summary>Asks a Native server by gRPC. Each token is a message of its own, so that inter-token latencies are exactly
/// that.</summary>
internal sealed class GrpcClient : IServingClient
{
    private readonly GrpcChannel _channel;
    private readonly Inference.InferenceClient _inference;
    private readonly string _model;
    private readonly bool _ignoreEos;
    private readonly Metadata _headers = [];

    /// <param name="url">The server.</param>
    /// <param name="model">The model to ask for; null for the server's first.</param>
    /// <param name="ignoreEos">Whether outputs go on past end tokens.</param>
    /// <param name="headers">Metadata of every call.</param>
    public GrpcClient(Uri url, string? model, bool ignoreEos, IReadOnlyDictionary<string, string> headers)
    {
        foreach ((string name, string value) in headers) _headers.Add(name, value);
        (_model, _ignoreEos) = (model ?? "", ignoreEos);
        _channel = GrpcChannel.ForAddress(url, new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler
            {
                UseProxy = false,
                EnableMultipleHttp2Connections = true,
            },
            DisposeHttpClient = true
        });
        _inference = new Inference.InferenceClient(_channel);
    }

    public async Task<TokenCounts> SendAsync(Prompt prompt, Action onPiece, CancellationToken ct)
    {
        GenerateRequest request = new()
        {
            Model = _model,
            Sampling = new SamplingParams
            {
                Temperature = 0,
                MaxTokens = (uint)prompt.OutputTokens,
                IgnoreEos = _ignoreEos,
            },
        };
        if (prompt.Ids is { } ids) request.TokenIds = new TokenIds { Ids = { ids } };
        else request.Text = prompt.Text;
        try
        {
            using AsyncServerStreamingCall<GenerateResponse> call =
                _inference.Generate(request, _headers, cancellationToken: ct);
            Usage? usage = null;
            while (await call.ResponseStream.MoveNext(ct))
            {
                if (call.ResponseStream.Current.EventCase == GenerateResponse.EventOneofCase.Token) onPiece();
                else if (call.ResponseStream.Current.EventCase == GenerateResponse.EventOneofCase.Summary)
                    usage = call.ResponseStream.Current.Summary.Usage;
            }
            if (usage is null) throw new RequestFailedException("the stream ended without a summary");
            return new TokenCounts((int)usage.PromptTokens, (int)usage.CompletionTokens);
        }
        catch (RpcException e) when (!ct.IsCancellationRequested)
        {
            throw new RequestFailedException($"{e.StatusCode}: {e.Status.Detail}");
        }
        catch (RpcException)
        {
            throw new OperationCanceledException(ct);
        }
    }

    public void Dispose() => _channel.Dispose();
}

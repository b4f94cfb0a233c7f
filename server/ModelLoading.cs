using Native.Kernels.Models;
using Native.Scheduling;
using Native.Server.Hub;
using Native.Server.Jinja;
using Native.Server.Serving;

namespace Native.Server;

/// <summary>Brings the model that the options name from its file or the hub into a server.</summary>
internal static class ModelLoading
{
    /// <summary>Loads the model and serves it.</summary>
    /// <returns>What went wrong; null where nothing did.</returns>
    public static string? Load(NativeServer server)
    {
        string path = server.Options.Model ?? Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");
        ProgressLine progress = new();
        try
        {
            server.KeepBudgets();
            string? name = server.Options.ServedModelName;
            if (HubReference.TryParse(path, out HubReference? reference))
            {
                using ModelHub hub = new(HubOptions.FromEnvironment());
                // This thread is for waiting. Whoever ends the server meanwhile ends the download too; the next start
                // goes on from what arrived.
                HubModel model = hub.ResolveAsync(reference, progress, CancellationToken.None).GetAwaiter().GetResult();
                path = model.Path;
                name ??= model.Name;
            }
            string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
            name ??= Directory.Exists(full) ? Path.GetFileName(full) : Path.GetFileNameWithoutExtension(full);
            ModelOptions options = server.Options.ToModelOptions(path);
            LoadedModel loaded = LoadedModel.Load(options, progress);
            ServedModel served = Serve(server, name, loaded);
            if (server.Options.BackendFallback is { } other && loaded.IsOnGpu)
                server.Replacement = () =>
                {
                    ModelOptions onCpu = options with { Backend = other, Device = null, BackendFallback = null };
                    return Serve(server, name, LoadedModel.Load(onCpu));
                };
            server.Host.Serve(served);
            progress.Clear();
            foreach (string warning in StartupText.Warnings(
                server.Options, loaded.Config, loaded.Runner.Info, loaded.Suggested, loaded.WhyNoGpu))
                Console.Error.WriteLine($"native: {warning}");
            return null;
        }
        catch (ModelOptionsException e)
        {
            server.Host.Fail();
            return $"{e.Message} (--kv-cache-memory, --max-model-len and --max-num-seqs decide)";
        }
        catch (Exception e) when (e is IOException or InvalidDataException or NotSupportedException
            or UnauthorizedAccessException or OutOfMemoryException)
        {
            server.Host.Fail();
            return e.Message;
        }
        catch (TemplateException e)
        {
            server.Host.Fail();
            return $"{path}: the chat template does not parse, line {e.Line}, column {e.Column}: {e.Message}";
        }
        finally
        {
            progress.Clear();
        }
    }

    /// <summary>A model with its engine. A template that does not parse is told now, not to the first client.</summary>
    /// <exception cref="TemplateException">It does not parse.</exception>
    private static ServedModel Serve(NativeServer server, string name, LoadedModel loaded)
    {
        SamplingParams defaults = server.Options.ToSamplingDefaults(loaded.Suggested);
        ServedModel served = new(name, loaded.Runner, loaded.Tokenizer, defaults, server.EngineOptions)
        {
            WhyNoGpu = loaded.WhyNoGpu,
        };
        _ = (served.Template, served.ToolTemplate);
        return served;
    }
}

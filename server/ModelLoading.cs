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
            LoadedModel loaded = LoadedModel.Load(server.Options.ToModelOptions(path), progress);
            string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
            name ??= Directory.Exists(full) ? Path.GetFileName(full) : Path.GetFileNameWithoutExtension(full);
            SamplingParams defaults = server.Options.ToSamplingDefaults(loaded.Suggested);
            ServedModel served = new(name, loaded.Runner, loaded.Tokenizer, defaults, server.EngineOptions);
            // A template that does not parse is told now, not to the first client.
            _ = (served.Template, served.ToolTemplate);
            server.Host.Serve(served);
            progress.Clear();
            foreach (string warning in StartupText.Warnings(
                server.Options, loaded.Config, loaded.Runner.Info, loaded.Suggested))
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
}
